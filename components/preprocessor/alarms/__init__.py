"""Alarms: what a condition is, how it becomes an alarm, and what holds a flood back."""
