"""The embedded platform: jobs as processes of this machine."""
