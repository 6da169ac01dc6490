package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/traefik/traefik/v3/pkg/config/label"
	"github.com/traefik/traefik/v3/pkg/plugins"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/testdata/cases"
)

// TestCasesInterpreted runs the table with the plugin in Yaegi, loaded, decoded and called by
// Traefik's own code.
func TestCasesInterpreted(t *testing.T) {
	builder := interpret(t)
	for _, c := range cases.All {
		t.Run(c.Name, func(t *testing.T) {
			handler, err := build(t, builder, c.Labels)
			if c.Errors != nil {
				require.Error(t, err)
				assert.Equal(t, c.Errors, strings.Split(err.Error(), "\n"))
				return
			}
			require.NoError(t, err)
			c.CheckHandler(t, handler)
		})
	}
}

// interpret loads the plugin as Traefik does in local mode. All instances share one interpreter.
func interpret(t testing.TB) *plugins.Builder {
	t.Helper()
	here, err := os.Getwd()
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	defer t.Chdir(here) // where fuzzing looks for its corpus
	require.NoError(t, stack.Install(filepath.Join("plugins-local", "src", filepath.FromSlash(plugin))))
	local := map[string]plugins.LocalDescriptor{"wellknown": {ModuleName: plugin}}
	require.NoError(t, plugins.SetupLocalPlugins(local))
	builder, err := plugins.NewBuilder(nil, nil, local)
	require.NoError(t, err)
	return builder
}

func build(t testing.TB, builder *plugins.Builder, options []string) (http.Handler, error) {
	t.Helper()
	configuration, err := label.DecodeConfiguration(labels("test", options))
	require.NoError(t, err)
	constructor, err := builder.Build("wellknown", configuration.HTTP.Middlewares["test"].Plugin["wellknown"], "test@docker")
	require.NoError(t, err)
	return constructor(context.Background(), cases.Echo)
}

// labels writes options as the labels of a middleware.
func labels(middleware string, options []string) map[string]string {
	labels := map[string]string{}
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		labels["traefik.http.middlewares."+middleware+".plugin.wellknown."+name] = value
	}
	return labels
}
