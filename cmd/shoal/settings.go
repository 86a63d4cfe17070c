package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const envPrefix = "SHOAL_"

// applySettings gives every flag that was not set on the command line its value
// from the environment, or else from the configuration file.
func applySettings(c *cobra.Command) error {
	fail := func(err error) error { return usageError{c.CommandPath(), err} }
	environment := koanf.New(".")
	err := environment.Load(env.Provider(".", env.Opt{Prefix: envPrefix, TransformFunc: func(k, v string) (string, any) {
		return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k, envPrefix)), "_", "-"), v
	}}), nil)
	if err != nil {
		return fail(fmt.Errorf("read environment: %w", err))
	}
	if err := setFrom(c, environment, func(flag string) string {
		return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	}); err != nil {
		return fail(err)
	}
	path, err := c.Flags().GetString("config")
	if err != nil || path == "" {
		return errors.Join(err, checkLog(c))
	}
	if _, err := os.Stat(path); err != nil {
		return fail(fmt.Errorf("--config: %w", err))
	}
	settings := koanf.New(".")
	if err := settings.Load(file.Provider(path), yaml.Parser()); err != nil {
		return fail(fmt.Errorf("read %s: %w", path, err))
	}
	for _, key := range settings.Keys() {
		if !known(c.Root(), key) {
			return fail(fmt.Errorf("%s: unknown setting %q", path, key))
		}
	}
	if err := setFrom(c, settings, func(flag string) string { return path + ": " + flag }); err != nil {
		return fail(err)
	}
	return checkLog(c)
}

// checkLog refuses log settings that do not exist.
func checkLog(c *cobra.Command) error {
	var level slog.Level
	if name, _ := c.Flags().GetString("log-level"); name != "" && level.UnmarshalText([]byte(name)) != nil {
		return usageError{c.CommandPath(), fmt.Errorf("--log-level %q: want debug, info, warn or error", name)}
	}
	if format, _ := c.Flags().GetString("log-format"); format != "auto" && format != "text" && format != "json" {
		return usageError{c.CommandPath(), fmt.Errorf("--log-format %q: want auto, text or json", format)}
	}
	return nil
}

// settingAnnotation marks flags whose value is a setting: settings serve all roles,
// so one that has no effect in a role is no mistake there.
const settingAnnotation = "shoal_setting"

// onCommandLine reports whether a flag was given on the command line itself.
func onCommandLine(f *pflag.Flag) bool { return f.Changed && f.Annotations[settingAnnotation] == nil }

// setFrom sets the flags that are still unset and that k has a value for.
func setFrom(c *cobra.Command, k *koanf.Koanf, origin func(flag string) string) (err error) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if err != nil || f.Changed || !k.Exists(f.Name) {
			return
		}
		value := k.String(f.Name)
		if list := k.Strings(f.Name); len(list) > 0 {
			value = strings.Join(list, ",")
		}
		if e := c.Flags().Set(f.Name, value); e != nil {
			err = fmt.Errorf("%s: %w", origin(f.Name), e)
			return
		}
		if f.Annotations == nil {
			f.Annotations = map[string][]string{}
		}
		f.Annotations[settingAnnotation] = []string{origin(f.Name)}
	})
	return err
}

// known reports whether any command has a flag of that name: one file can serve
// all roles.
func known(c *cobra.Command, name string) bool {
	if c.Flags().Lookup(name) != nil || c.PersistentFlags().Lookup(name) != nil {
		return true
	}
	return slices.ContainsFunc(c.Commands(), func(sub *cobra.Command) bool { return known(sub, name) })
}
