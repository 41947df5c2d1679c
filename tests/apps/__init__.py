"""Applications beside JupyterLab: what runs them on a session's machine."""
