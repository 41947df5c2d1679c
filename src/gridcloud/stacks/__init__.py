"""Several instances as one thing: defined once, deployed in parallel, all of them or none, ended together."""
