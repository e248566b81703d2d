"""Arithmetic on sizes: ints, polynomials in the columns of a sweep, sums in letters."""
