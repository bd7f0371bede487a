"""What keeps a subscription whole: publishing, order, recovery, silence."""
