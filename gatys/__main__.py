from gatys.cli import main

main()
