# Sourced by run.sh: holds both gateways to the OpenAPI document. A server error,
# a status, a content type or an answer that is not described is a failure.
# EXAMPLES is how many requests are made up for each operation.
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method
examples=${EXAMPLES:-40}

# hold NAME URL FLAGS... tests a part of the document.
hold() {
  echo "== schemathesis: $1"
  url=$2
  shift 2
  (cd "$work" && "$venv/bin/schemathesis" run "$root/docs/openapi.yaml" --url "$url" --checks "$checks" \
    --max-examples "$examples" --request-timeout 30 --suppress-health-check all --seed 1 --no-color "$@")
}

api=--exclude-path-regex=^/api/
ollama=--include-path-regex=^/api/
key="Authorization: Bearer $SHOAL_KEY"
hold "open" "$SHOAL_URL" "$api"
hold "open, Ollama" "$SHOAL_OLLAMA" "$ollama"
hold "with the key" "$SHOAL_KEY_URL" "$api" --header "$key"
hold "with the key, Ollama" "$SHOAL_KEY_OLLAMA" "$ollama" --header "$key"
hold "without the key" "$SHOAL_KEY_URL" "$api"
hold "without the key, Ollama" "$SHOAL_KEY_OLLAMA" "$ollama"
