"""The AWS endpoints of the local core: moto for S3, Kinesis and Secrets Manager, and a SiteWise endpoint of our own."""

from localcore.aws.process import AwsProcess

__all__ = ["AwsProcess"]
