"""Which cut each picture is released at, as bandwidth and load change: modelled and simulated."""
