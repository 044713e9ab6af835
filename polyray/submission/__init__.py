"""Jobs on a cluster: what is packed, what is refused, and how a submitted job is followed."""
