package telemetry

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
)

// Logger returns a logger that writes to w: coloured lines for a person when w
// is a terminal and json is false, else a JSON object a line. Records that are
// logged with the context of a span carry its trace id. NO_COLOR turns colours
// off (https://no-color.org).
func Logger(w io.Writer, level slog.Leveler, json bool) *slog.Logger {
	if json || !isTerminal(w) {
		return slog.New(traced{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})})
	}
	return slog.New(traced{tint.NewTextHandler(w, &tint.Options{
		Level: level, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != "",
	})})
}

// isTerminal reports whether w is a character device, as terminals are.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// traced adds the trace id of the context to each record.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if id := TraceID(ctx); id != "" {
		r.AddAttrs(slog.String("trace_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traced{h.Handler.WithAttrs(attrs)}
}

func (h traced) WithGroup(name string) slog.Handler { return traced{h.Handler.WithGroup(name)} }
