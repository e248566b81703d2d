"""What pictures show, as frozen numbers: no plotting here, and no number that the tables do not have too."""
