"""Programs that travel to the machines of sessions; gridcloud itself imports none of them."""
