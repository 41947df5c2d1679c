"""The prototype's surface, ``mig.io``: its programs run with this import in place of that one."""

from __future__ import annotations

from gridcloud.files.sftp import ERDAShare, IDMCShare, SFTPStore, SSHFSStore

__all__ = ["ERDAShare", "IDMCShare", "SFTPStore", "SSHFSStore"]
