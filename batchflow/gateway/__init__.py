"""The gateway: an ASGI app that receives OpenAI's webhooks and shows the fleet."""
