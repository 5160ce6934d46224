"""The package as a page: a browser runs the local NN, releases and predicts, and sends nothing."""
