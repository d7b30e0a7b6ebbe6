"""How well the tests of the core notice that it was changed."""
