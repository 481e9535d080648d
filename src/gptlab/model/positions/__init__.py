"""Where a token stands: each encoding acts at up to three moments (see `base.Position`)."""
