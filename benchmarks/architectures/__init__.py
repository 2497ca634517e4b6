"""Deep supervision on many architectures, checked from outside by the library's public names only."""
