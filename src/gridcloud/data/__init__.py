"""Where files live, and who reaches them: storages, shares and their links, the doors to them."""
