"""Make a machine as it was asked: contracts of what configures a reached instance."""
