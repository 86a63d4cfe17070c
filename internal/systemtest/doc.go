// Package systemtest runs the real shoal program as the processes that
// docker-compose.yml describes, with the same flags, on loopback, and looks at
// it as users and operators do. It holds tests alone.
package systemtest
