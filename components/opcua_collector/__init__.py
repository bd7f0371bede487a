"""Collects values from OPC UA servers: subscribes, decodes into columns, hands them to Sluice's delivery."""
