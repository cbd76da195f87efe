"""The server: a web page, JSON, the Open Inference Protocol; FastAPI on the predictor."""
