"""The sections of the page, one a file; each says where on the page it stands."""
