package main

import (
	"context"
	"net/http"
	"testing"

	"github.com/mitchellh/mapstructure"
	"github.com/stretchr/testify/require"
	"github.com/traefik/traefik/v3/pkg/config/label"

	"github.com/continuwuity/wellknown"
	"github.com/continuwuity/wellknown/testdata/cases"
)

// FuzzConfigurationInterpreted tries any labels: Traefik decodes them, and the plugin in Yaegi has to
// make the same of them as the compiled one.
func FuzzConfigurationInterpreted(f *testing.F) {
	cases.SeedConfigurations(f)
	builder := interpret(f)
	f.Fuzz(func(t *testing.T, text string) {
		configuration, ok := parse(cases.Labels(text))
		if !ok {
			return
		}
		constructor, err := builder.Build("wellknown", configuration, "test@docker")
		config := wellknown.CreateConfig()
		compiledErr := decode(configuration, config)
		require.Equal(t, compiledErr == nil, err == nil, "%v, %v", compiledErr, err)
		if err != nil {
			return
		}
		handler, err := constructor(context.Background(), cases.Echo)
		compiled, compiledErr := wellknown.New(context.Background(), cases.Echo, config, "test")
		require.Equal(t, cases.CheckNew(t, config.Documents, compiled, compiledErr), cases.CheckNew(t, config.Documents, handler, err))
	})
}

// parse reads labels as Traefik does, whose parser panics on some.
func parse(options []string) (configuration map[string]any, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	all, err := label.DecodeConfiguration(labels("test", options))
	if err != nil || all.HTTP.Middlewares["test"] == nil {
		return nil, false
	}
	return all.HTTP.Middlewares["test"].Plugin["wellknown"], true
}

// decode is what Traefik does with a plugin's configuration.
func decode(configuration map[string]any, config *wellknown.Config) error {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		DecodeHook: mapstructure.StringToSliceHookFunc(","), WeaklyTypedInput: true, Result: config,
	})
	if err != nil {
		return err
	}
	return decoder.Decode(configuration)
}

// FuzzRequestInterpreted tries any request: the plugin in Yaegi has to answer as the compiled one does.
func FuzzRequestInterpreted(f *testing.F) {
	cases.SeedRequests(f)
	builder := interpret(f)
	pairs := [][2]http.Handler{}
	for _, options := range [][]string{cases.Delegated, append(cases.Delegated, "standalone=true")} {
		handler, err := build(f, builder, options)
		require.NoError(f, err)
		configuration, _ := parse(options)
		config := wellknown.CreateConfig()
		require.NoError(f, decode(configuration, config))
		compiled, err := wellknown.New(context.Background(), cases.Echo, config, "test")
		require.NoError(f, err)
		pairs = append(pairs, [2]http.Handler{compiled, handler})
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, pair := range pairs {
			require.Equal(t, cases.CheckRequest(t, pair[0], text), cases.CheckRequest(t, pair[1], text))
		}
	})
}
