"""How the values of a tag are typed, and what a server says about them."""
