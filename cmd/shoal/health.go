package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoal-llm/shoal/internal/telemetry/admin"
)

func newHealth() *cobra.Command {
	var addr string
	var live bool
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask the node on this machine whether it is ready",
		Long: `Ask the node on this machine whether it is ready, over its admin address. The
exit code is 0 when it is and 1 when it is not, with the reasons.`,
		Args: exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error { return askHealth(c.Context(), c.OutOrStdout(), addr, live) },
	}
	c.Flags().StringVar(&addr, "admin-addr", admin.DefaultAddr, "admin address of the node")
	c.Flags().BoolVar(&live, "live", false, "ask only whether the process is alive")
	return c
}

// askHealth prints "ok", or returns why the node is not ready.
func askHealth(ctx context.Context, out io.Writer, addr string, live bool) error {
	path := "/readyz"
	if live {
		path = "/livez"
	}
	const patience = 3 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if strings.HasPrefix(addr, ":") || strings.HasPrefix(addr, "0.0.0.0:") {
		addr = "127.0.0.1" + addr[strings.LastIndex(addr, ":"):]
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return fmt.Errorf("--admin-addr %s: %w", addr, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no node answers at %s: is one running, and is this its --admin-addr?", addr)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		_, err = fmt.Fprintln(out, "ok")
		return err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", addr, err)
	}
	return fmt.Errorf("not ready: %s", reasons(body))
}

// reasons renders the JSON of /readyz as one line.
func reasons(body []byte) string {
	var answer struct {
		Reasons map[string]string `json:"reasons"`
	}
	if json.Unmarshal(body, &answer) != nil || len(answer.Reasons) == 0 {
		return strings.TrimSpace(string(body))
	}
	var out []string
	for what, why := range answer.Reasons {
		out = append(out, what+": "+why)
	}
	sort.Strings(out)
	return strings.Join(out, "; ")
}
