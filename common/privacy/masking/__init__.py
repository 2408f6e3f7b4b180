"""Masks that hide each site's vector and cancel in the sum over all of them."""
