"""Images as the OCI and Docker specifications describe them: frozen values, text and bytes in and out, no I/O."""
