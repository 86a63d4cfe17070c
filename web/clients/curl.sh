#!/bin/sh
# curl against a running gateway: what the documents show, and its errors.
set -eu

fail() { echo "curl: $1: $2" >&2; exit 1; }

# want STATUS PATTERN ARGUMENTS... asks and checks status and body.
want() {
  status=$1 pattern=$2
  shift 2
  out=$(curl -s -w '\n%{http_code}' "$@")
  [ "${out##*
}" = "$status" ] || fail "$*" "status ${out##*
}, want $status: $out"
  echo "$out" | grep -q -e "$pattern" || fail "$*" "no $pattern in $out"
}

chat='{"model":"tiny","messages":[{"role":"user","content":"Hello!"}],"max_tokens":8'
api=$SHOAL_URL/v1

want 200 '"finish_reason":"' "$api/chat/completions" -d "$chat}"
want 200 'data: \[DONE\]' -N "$api/chat/completions" -d "$chat,\"stream\":true}"
want 200 '"top_logprobs":\[{' "$api/chat/completions" -d "$chat,\"logprobs\":true,\"top_logprobs\":1}"
want 200 '"object":"text_completion"' "$api/completions" -d '{"model":"tiny","prompt":"The sea","max_tokens":4}'
want 200 '"object":"embedding"' "$api/embeddings" -d '{"model":"tiny","input":"Hello"}'
want 200 '"id":"tiny"' "$api/models"
want 200 '^openapi: 3' "$SHOAL_URL/openapi.yaml"
want 404 '"code":"model_not_found"' "$api/chat/completions" -d '{"model":"none","messages":[{"role":"user","content":"Hello!"}]}'
want 400 '"param":"temperature"' "$api/chat/completions" -d "$chat,\"temperature\":-1}"
want 401 '"type":"authentication_error"' "$SHOAL_KEY_URL/v1/models"
want 200 '"id":"tiny"' "$SHOAL_KEY_URL/v1/models" -H "Authorization: Bearer $SHOAL_KEY"
want 200 '"done":true' "$SHOAL_OLLAMA/api/generate" -d '{"model":"tiny","prompt":"Hello!","options":{"num_predict":4}}'

# The rich protocol as events: a form, tools, and times that are over.
place='{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}'
events() { curl -sN "$SHOAL_URL/streaming" -d "{\"prompt\":\"Hello!\",\"temperature\":0,\"maxTokens\":200,$1}"; }
form=$(events "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"place\",\"schema\":$place}}")
echo "$form" | grep -q '"type":"complete".*"finishReason":"stop"' || fail streaming "no complete answer in $form"
tool="{\"type\":\"function\",\"function\":{\"name\":\"weather\",\"parameters\":$place}}"
calls=$(events "\"tools\":[$tool],\"tool_choice\":\"required\"")
echo "$calls" | grep -q '"type":"complete".*"finishReason":"tool_calls"' || fail streaming "no call in $calls"
want 400 '"param":"response_format.type"' "$SHOAL_URL/streaming" -d '{"prompt":"x","response_format":{"type":"xml"}}'
want 408 '"code":"deadline_exceeded"' "$api/chat/completions" -d "$chat}" -H 'X-Request-Timeout-Ms: 0'

# A client that leaves stops its answer.
curl -sN --max-time 0.2 "$api/chat/completions" -o /dev/null \
  -d '{"model":"tiny","messages":[{"role":"user","content":"Hello!"}],"stream":true,"max_tokens":900,"logit_bias":{"2":-100}}' || true
tries=0
until curl -s "$api/cluster" | grep -q '"sessions":{"running":0'; do
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] || fail abort "an answer still runs"
  sleep 0.05
done
