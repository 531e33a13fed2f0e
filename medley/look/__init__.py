"""Looking at what is deployed: status, models, doctor, logs and top."""
