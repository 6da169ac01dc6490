package stack

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// Load reads a compose file and the .env beside it, as docker compose does.
func Load(ctx context.Context, path string) (*types.Project, error) {
	options, err := cli.NewProjectOptions([]string{path},
		cli.WithWorkingDirectory(filepath.Dir(path)), cli.WithName("demo"), cli.WithEnvFiles(), cli.WithDotEnv)
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return project, nil
}

// Containers returns what the compose file would start, as Docker would list it.
func Containers(project *types.Project) []Container {
	containers := []Container{}
	for _, name := range project.ServiceNames() {
		containers = append(containers, Container{Name: name, Labels: project.Services[name].Labels})
	}
	return containers
}

// Flags returns Traefik's flags from the compose file, with its entry points on loopback only.
func Flags(project *types.Project) []string {
	flags := []string{}
	for _, flag := range project.Services["traefik"].Command {
		name, value, _ := strings.Cut(flag, "=")
		if strings.HasPrefix(name, "--entrypoints.") && strings.HasSuffix(name, ".address") {
			flag = name + "=127.0.0.1" + value
		}
		flags = append(flags, flag)
	}
	return flags
}
