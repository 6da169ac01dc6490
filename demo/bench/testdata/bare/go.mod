module example.org/bare

go 1.21
