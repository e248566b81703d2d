"""The numbers in pictures, as frozen data, and their description; `memmodel.report` draws them."""
