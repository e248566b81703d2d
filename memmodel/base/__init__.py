"""What everything stands on: errors, units, dtypes, frozen data, files read within limits."""
