"""How fast networks train on this machine, where the time goes, and what would make it faster: see `fastbp.profile`."""
