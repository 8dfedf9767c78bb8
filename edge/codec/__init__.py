"""Between what clients send and read, and the contract's messages. Decides nothing about what a frame means."""
