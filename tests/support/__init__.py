"""What tests share: small inputs, made by hand or drawn, and commands run in this process."""
