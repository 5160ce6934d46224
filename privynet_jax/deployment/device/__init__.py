"""The local NN as a folder that runs by itself."""
