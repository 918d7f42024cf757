# Health check
curl http://localhost:8000/health

# Reset environment
curl -X POST http://localhost:8000/reset

# List tools via /step endpoint
curl -X POST http://localhost:8000/step \
  -H "Content-Type: application/json" \
  -d '{"action": {"type": "ListToolsAction"}}'

# Call tool via /step endpoint
curl -X POST http://localhost:8000/step \
  -H "Content-Type: application/json" \
  -d '{
    "action": {
      "type": "CallToolAction",
      "tool_name": "echo_message",
      "parameters": {"message": "Hello MCP!"}
    }
  }'

# Direct MCP access via /mcp endpoint (JSON-RPC)
curl -X POST http://localhost:8000/mcp \
  -H "Content-Type: application/json" \
  -d '{
    "jsonrpc": "2.0",
    "method": "tools/list",
    "id": 1
  }'

curl -X POST http://localhost:8000/mcp \
  -H "Content-Type: application/json" \
  -d '{
    "jsonrpc": "2.0",
    "method": "tools/call",
    "params": {
      "name": "echo_message",
      "arguments": {"message": "Hello from MCP endpoint!"}
    },
    "id": 2
  }'
