"""Other people's runs, what their scripts did, and the rates fitted to them. In the repository, not in the package."""
