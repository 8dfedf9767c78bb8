"""The services, the engines they stand on, and the program that wires them."""
