"""What every process of ours needs: messages, children, lifetime, a sandbox."""
