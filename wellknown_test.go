package wellknown_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown"
	"github.com/continuwuity/wellknown/testdata/cases"
)

// TestCases runs the table with the compiled plugin. In demo/ the same table runs with the
// interpreted plugin, and in a real Traefik.
func TestCases(t *testing.T) {
	for _, c := range cases.All {
		t.Run(c.Name, func(t *testing.T) {
			handler, err := wellknown.New(context.Background(), cases.Echo, mustDecode(t, c.Labels), "test")
			if c.Errors != nil {
				require.Error(t, err)
				assert.Equal(t, c.Errors, strings.Split(err.Error(), "\n"))
				assert.Nil(t, handler)
				return
			}
			require.NoError(t, err)
			c.CheckHandler(t, handler)
		})
	}
}

// TestNewIsRepeatable holds New to what Traefik does: it calls it again and again with one Config.
func TestNewIsRepeatable(t *testing.T) {
	for _, c := range cases.All {
		if c.Errors == nil {
			config := mustDecode(t, c.Labels)
			for range [2]int{} {
				handler, err := wellknown.New(context.Background(), cases.Echo, config, "test")
				require.NoError(t, err)
				c.CheckHandler(t, handler)
			}
		}
	}
}

func TestPanicInNewIsAnError(t *testing.T) {
	handler, err := wellknown.New(context.Background(), cases.Echo, nil, "test")
	assert.Nil(t, handler)
	assert.ErrorContains(t, err, "please report it")
}

// TestJSONInsteadOfText gives what providers with nested values (Kubernetes, files) can hand over.
func TestJSONInsteadOfText(t *testing.T) {
	config := wellknown.CreateConfig()
	config.Client = "https://matrix.example.com"
	config.ClientExtra = map[string]any{"io.element.e2ee": map[string]any{"force_disable": true}}
	config.Documents = map[string]any{"mautrix": []any{1.5}, "unset": nil}
	_, err := wellknown.New(context.Background(), cases.Echo, config, "test")
	assert.EqualError(t, err, `clientExtra='{"io.element.e2ee":{"force_disable":true}}': is not text; write the whole JSON object as one string: clientExtra='{"org.example.key":"value"}'`+"\n"+
		`documents.mautrix='[1.5]': is not text; write the whole JSON object as one string: documents.mautrix='{"org.example.key":"value"}'`)
}

// TestForwardingHandsOverTheSameObjects is what keeps flushing, upgrades and trailers working.
func TestForwardingHandsOverTheSameObjects(t *testing.T) {
	var gotWriter http.ResponseWriter
	var gotRequest *http.Request
	next := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) { gotWriter, gotRequest = rw, req })
	handler, err := wellknown.New(context.Background(), next, mustDecode(t, []string{"server=matrix.example.com:443"}), "test")
	require.NoError(t, err)

	type writer struct{ http.ResponseWriter }
	rw := &writer{}
	req := httptest.NewRequest(http.MethodGet, "/_matrix/client/versions", nil)
	handler.ServeHTTP(rw, req)
	assert.Same(t, rw, gotWriter)
	assert.Same(t, req, gotRequest)
}

var step = regexp.MustCompile(`[^.\[\]]+`)

// decode does what Traefik's label parser and mapstructure do, as far as the table needs it.
// That it does the same is shown by the table: there it meets the real ones.
func decode(labels []string) (*wellknown.Config, error) {
	config := wellknown.CreateConfig()
	for _, label := range labels {
		option, value, _ := strings.Cut(label, "=")
		if err := set(reflect.ValueOf(config).Elem(), step.FindAllString(option, -1), option, value); err != nil {
			return nil, fmt.Errorf("%s: %w", label, err)
		}
	}
	return config, nil
}

// set follows the steps of an option's path, making what is not there yet.
func set(v reflect.Value, path []string, option, value string) error {
	wrong := errors.New("not an option's path")
	switch {
	case v.Kind() == reflect.Struct:
		if len(path) == 0 {
			return wrong
		}
		field := v.FieldByNameFunc(func(name string) bool { return strings.EqualFold(name, path[0]) })
		if field.IsValid() {
			return set(field, path[1:], option, value)
		}
		unknown := v.FieldByName("Unknown")
		if unknown.IsNil() {
			unknown.Set(reflect.MakeMap(unknown.Type()))
		}
		return set(unknown, path, option, value)
	case v.Kind() == reflect.Slice && len(path) > 0:
		index, err := strconv.Atoi(path[0])
		if err != nil || index < 0 || index > 99 {
			return wrong
		}
		for v.Len() <= index {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		}
		return set(v.Index(index), path[1:], option, value)
	case v.Kind() == reflect.Map:
		if len(path) == 0 {
			return wrong
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		var below any = value
		for i := len(path) - 1; i > 0; i-- {
			if strings.Contains(option, path[i]+"]") {
				below = []any{below}
			} else {
				below = map[string]any{path[i]: below}
			}
		}
		v.SetMapIndex(reflect.ValueOf(path[0]), reflect.ValueOf(below))
	case len(path) > 0:
		return wrong
	case v.Type() == reflect.TypeOf([]string{}):
		if value != "" {
			v.Set(reflect.ValueOf(strings.Split(value, ",")))
		}
	case v.Kind() == reflect.Bool:
		parsed, err := strconv.ParseBool(value)
		v.SetBool(parsed)
		return err
	case v.Kind() == reflect.Int:
		parsed, err := strconv.Atoi(value)
		v.SetInt(int64(parsed))
		return err
	case v.Kind() == reflect.Slice:
		return wrong
	default:
		v.Set(reflect.ValueOf(value))
	}
	return nil
}

// FuzzConfiguration tries any labels. In demo/ the same is done in Yaegi, and compared.
func FuzzConfiguration(f *testing.F) {
	cases.SeedConfigurations(f)
	f.Fuzz(func(t *testing.T, text string) {
		config, err := decode(cases.Labels(text))
		if err != nil {
			return
		}
		handler, err := wellknown.New(context.Background(), cases.Echo, config, "test")
		cases.CheckNew(t, config.Documents, handler, err)
	})
}

// FuzzRequest tries any request.
func FuzzRequest(f *testing.F) {
	cases.SeedRequests(f)
	handlers := []http.Handler{}
	for _, labels := range [][]string{cases.Delegated, append(cases.Delegated, "standalone=true")} {
		handler, err := wellknown.New(context.Background(), cases.Echo, mustDecode(f, labels), "test")
		require.NoError(f, err)
		handlers = append(handlers, handler)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, handler := range handlers {
			cases.CheckRequest(t, handler, text)
		}
	})
}

func mustDecode(t testing.TB, labels []string) *wellknown.Config {
	t.Helper()
	config, err := decode(labels)
	require.NoError(t, err)
	return config
}

var update = flag.Bool("update", false, "write the README's table of options")

// TestREADMEOptions holds the README's table to the comments at the fields.
func TestREADMEOptions(t *testing.T) {
	const begin, end = "<!-- options -->\n", "<!-- /options -->\n"
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(readme), begin)
	require.True(t, ok)
	got, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	want := optionsTable(t)
	if *update {
		require.NoError(t, os.WriteFile("README.md", []byte(before+begin+want+end+after), 0o600))
		return
	}
	assert.Equal(t, want, got, "run go test -run README . -update")
}

func optionsTable(t *testing.T) string {
	t.Helper()
	comments := fieldComments(t)
	table := "| option | value | default | what it does |\n| --- | --- | --- | --- |\n"
	defaults := reflect.ValueOf(*wellknown.CreateConfig())
	for i := 0; i < defaults.NumField(); i++ {
		field := defaults.Type().Field(i)
		if field.Tag.Get("mapstructure") != "" {
			continue
		}
		option := strings.ToLower(field.Name[:1]) + field.Name[1:]
		kind, preset := "text", "–"
		switch field.Type.Kind() {
		case reflect.Bool:
			kind, preset = "`true` or `false`", "`"+strconv.FormatBool(defaults.Field(i).Bool())+"`"
		case reflect.Int:
			kind, preset = "number", "`"+strconv.FormatInt(defaults.Field(i).Int(), 10)+"`"
		case reflect.Slice:
			kind = "list"
		case reflect.Interface:
			kind = "JSON object"
		case reflect.Map:
			kind = "JSON object"
			option += ".<name>"
		default:
			if value := defaults.Field(i).String(); value != "" {
				preset = "`" + value + "`"
			}
		}
		option = "`" + option + "`"
		if field.Type == reflect.TypeOf([]wellknown.Contact{}) {
			option = ""
			for j, name := range []string{"Role", "Email", "Mxid", "PgpKey"} {
				assert.Equal(t, "As `support"+name+"`.", comments["Contact."+name])
				written := "." + strings.ToLower(name[:1]) + name[1:]
				if j == 0 {
					written = "supportContacts[n]" + written
				}
				option += "`" + written + "` "
			}
		}
		comment := comments["Config."+field.Name]
		require.NotEmpty(t, comment, field.Name)
		table += "| " + strings.TrimSpace(option) + " | " + kind + " | " + preset + " | " + comment + " |\n"
	}
	return table
}

// fieldComments returns the first paragraph of the comment at each field.
func fieldComments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "wellknown.go", nil, parser.ParseComments)
	require.NoError(t, err)
	comments := map[string]string{}
	ast.Inspect(file, func(node ast.Node) bool {
		declaration, ok := node.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if structure, ok := declaration.Type.(*ast.StructType); ok {
			for _, field := range structure.Fields.List {
				paragraph, _, _ := strings.Cut(field.Doc.Text(), "\n\n")
				for _, name := range field.Names {
					comments[declaration.Name.Name+"."+name.Name] = strings.Join(strings.Fields(paragraph), " ")
				}
			}
		}
		return false
	})
	return comments
}
