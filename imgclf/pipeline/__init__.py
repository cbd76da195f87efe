"""The one place where the parts are wired: a configuration goes in, a tracked run comes out."""
