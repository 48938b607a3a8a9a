"""Jobs' checkpoints on S3: how jobs come by the bucket, and who removes what they left there."""
