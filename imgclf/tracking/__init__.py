"""Everything that is sent to MLflow or read from it; the only package that imports mlflow."""

import os

# MLflow reads these while it is imported. A server that is down blocks a call for minutes with its
# own settings; ours are for calls that the caller tries again anyway.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
# It tells of database migrations and model flavours on standard error; nobody asked.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
# It draws bars there as well, where a server that fetches another model writes lines of JSON.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# How the address of a model in MLflow begins.
MODEL_SCHEMES = ("models:/", "runs:/")
# How the address of a tracking server begins; others are databases.
SERVER_SCHEMES = ("http://", "https://")
