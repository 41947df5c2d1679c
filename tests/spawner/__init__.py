"""The hub, whole: service, proxy and hub as `gridcloud up` runs them."""
