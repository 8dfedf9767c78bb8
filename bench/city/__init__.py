"""A simulated city, in which friends want to know who of them is near."""
