package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shoal-llm/shoal/services/gateway/apikey"
)

func newKey() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "API keys with limits: create, ls, revoke",
		Long: `Make, list and revoke API keys with limits, in a file that a gateway reads (--keys).
The gateway reads it again when it changes: nothing is restarted.

The file holds hashes and limits, never a key. Give every user a key of their own:
keys are what separates tenants.`,
		Example: `  shoal key create alice --rpm 60 --tpm 20000
  shoal gateway --keys FILE ...          # or shoal up --keys FILE; FILE as the command above says
  shoal key ls
  shoal key revoke alice`,
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newKeyCreate(), newKeyList(), newKeyRevoke())
	return c
}

// keyFile is the flag of the file that the commands work on.
type keyFile struct{ path string }

func (o *keyFile) flags(f *pflag.FlagSet) {
	f.StringVar(&o.path, "keys", filepath.Join(identityDir(), "api-keys.json"), "file of the keys")
}

// read returns the keys in the file; none where there is no file.
func (o *keyFile) read() ([]apikey.Key, error) {
	keys, err := apikey.Read(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return keys, err
}

func newKeyCreate() *cobra.Command {
	var file keyFile
	var limits apikey.Key
	var life time.Duration
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a key, and show it once",
		Long: `Make a key for NAME, a user or a program, and print it: this is the only time that
it is shown. Its hash and limits go into the file of keys.

Beyond a limit of requests or tokens the gateway answers 429 and says when to ask
again (RESOURCE_EXHAUSTED with RetryInfo over gRPC); for another model 403; after it
has expired 401. Tokens are those of prompts and answers together, as they are
computed: an answer that runs is never cut, but what it takes beyond the limit is
owed before the next one begins.`,
		Example: `  shoal key create alice --rpm 60 --tpm 20000 --models tiny --expires 720h`,
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if life < 0 {
				return usageError{c.CommandPath(), fmt.Errorf("--expires %v: want a time from now, or 0 for never", life)}
			}
			now := time.Now()
			key, text, err := apikey.New(args[0], now)
			if err == nil {
				key.Requests, key.Tokens, key.Models = limits.Requests, limits.Tokens, limits.Models
				if life > 0 {
					key.Expires = now.Add(life).UTC().Truncate(time.Second)
				}
				err = key.Check()
			}
			if err != nil {
				return usageError{c.CommandPath(), err}
			}
			keys, err := file.read()
			if err != nil {
				return err
			}
			if slices.ContainsFunc(keys, func(k apikey.Key) bool { return k.Name == key.Name }) {
				return fmt.Errorf("there is a key called %s: revoke it first, or choose another name", key.Name)
			}
			if err := apikey.Write(file.path, append(keys, key)); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(c.OutOrStdout(), text); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.ErrOrStderr(), "the key of %s, shown this once; its hash is in %s, which a gateway reads with --keys\n", key.Name, file.path)
			return err
		},
	}
	f := c.Flags()
	file.flags(f)
	f.IntVar(&limits.Requests, "rpm", 0, "requests a minute; 0 is no limit")
	f.IntVar(&limits.Tokens, "tpm", 0, "tokens a minute, of prompts and answers together; 0 is no limit")
	f.StringSliceVar(&limits.Models, "models", nil, "models that the key is for, by name or alias, comma-separated; empty is all")
	f.DurationVar(&life, "expires", 0, "how long the key holds, like 720h; 0 is until it is revoked")
	return c
}

func newKeyList() *cobra.Command {
	var file keyFile
	c := &cobra.Command{
		Use:     "ls",
		Short:   "List keys and what they allow",
		Example: `  shoal key ls`,
		Args:    exactArgs(0),
		RunE: func(c *cobra.Command, _ []string) error {
			keys, err := apikey.Read(file.path)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is not there: no key was made yet (`shoal key create NAME`)", file.path)
			}
			if err != nil {
				return err
			}
			return printKeys(c.OutOrStdout(), keys, time.Now())
		},
	}
	file.flags(c.Flags())
	return c
}

func printKeys(out io.Writer, keys []apikey.Key, now time.Time) error {
	limit := func(n int) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprint(n)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKEY\tREQUESTS/MIN\tTOKENS/MIN\tMODELS\tCREATED\tEXPIRES")
	for _, k := range keys {
		expires := "never"
		switch {
		case k.Expired(now):
			expires = "expired " + k.Expires.Format(time.DateOnly)
		case !k.Expires.IsZero():
			expires = k.Expires.Format(time.DateOnly)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Name, k.Hint, limit(k.Requests), limit(k.Tokens),
			orDash(strings.Join(k.Models, ",")), k.Created.Format(time.DateOnly), expires)
	}
	return w.Flush()
}

func newKeyRevoke() *cobra.Command {
	var file keyFile
	c := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Take a key away: gateways that read the file refuse it within a second or two",
		Long: `Take a key away. Gateways that read the file refuse it within a second or two, on
sockets that are open too; answers that run go on to their end.`,
		Example: `  shoal key revoke alice`,
		Args:    exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := file.read()
			if err != nil {
				return err
			}
			left := slices.DeleteFunc(slices.Clone(keys), func(k apikey.Key) bool { return k.Name == args[0] })
			if len(left) == len(keys) {
				return fmt.Errorf("there is no key called %s in %s; `shoal key ls` lists them", args[0], file.path)
			}
			if err := apikey.Write(file.path, left); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is revoked\n", args[0])
			return err
		},
	}
	file.flags(c.Flags())
	return c
}
