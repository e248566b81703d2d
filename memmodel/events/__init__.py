"""The events of a run and what is read off them: live bytes, peaks, accounts, moments."""
