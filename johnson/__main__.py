from johnson.cli import main

main()
