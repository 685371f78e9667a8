"""The gateway: an ASGI app that takes OpenAI's webhooks and shows how the fleet is doing."""
